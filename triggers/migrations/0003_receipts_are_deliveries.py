"""Idempotency keys that still count move into the ledger of deliveries, so that none is forgotten."""

from django.db import migrations

COPY = """
INSERT INTO triggers_delivery (id, trigger_id, received_at, verdict, code, reason, method, size, "key", fingerprint,
                               execution_id, request, held, times)
SELECT id, trigger_id, created_at, 'accepted', '', '', 'POST', 0, "key", fingerprint, execution_id, '', TRUE, 1
FROM triggers_receipt WHERE execution_id IS NOT NULL
"""


class Migration(migrations.Migration):

    dependencies = [
        ('triggers', '0002_ledgers'),
    ]

    operations = [
        migrations.RunSQL(COPY, migrations.RunSQL.noop),
        migrations.DeleteModel(name='Receipt'),
    ]
