"""What all mails of the server have in common."""

from django.core import mail

from bloxserver.core.mail import compose, send


def test_a_mail_is_one_line_of_subject_text_and_html_under_an_id_that_stays_the_same() -> None:
    for _ in range(2):
        send(compose(name="one", to=["a@shop.example"], subject="All\nis well", text="Well.", html="<p>Well.</p>"))
    sent, again = mail.outbox
    assert (sent.to, sent.subject, sent.body) == (["a@shop.example"], "All is well", "Well.")
    assert sent.alternatives == [("<p>Well.</p>", "text/html")]  # type: ignore[union-attr]
    assert sent.extra_headers == again.extra_headers
    assert sent.extra_headers["Auto-Submitted"] == "auto-generated"


def test_a_mail_of_text_alone_has_no_second_part() -> None:
    send(compose(name="one", to=["a@shop.example"], subject="Well", text="Well."))
    assert mail.outbox[0].message().get_content_type() == "text/plain"
