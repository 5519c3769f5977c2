"""The floor that throughput is measured against: what the database takes if a program does nothing but write one row."""

import threading
import time

import psycopg

CONNECTIONS = 8


def commits_per_second(database_url: str, *, seconds: float = 4.0) -> float:
    """Single-row INSERT and COMMIT over eight connections of psycopg, a thread each."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS bench_floor")
        connection.execute("CREATE TABLE bench_floor (id bigserial PRIMARY KEY, body text NOT NULL)")
    counts = [0] * CONNECTIONS
    stop_at = time.perf_counter() + seconds

    def write(number: int) -> None:
        with psycopg.connect(database_url) as connection:
            while time.perf_counter() < stop_at:
                connection.execute("INSERT INTO bench_floor (body) VALUES (%s)", ["x" * 200])
                connection.commit()
                counts[number] += 1

    started = time.perf_counter()
    threads = [threading.Thread(target=write, args=(number,)) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = sum(counts) / (time.perf_counter() - started)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DROP TABLE bench_floor")
    return rate
