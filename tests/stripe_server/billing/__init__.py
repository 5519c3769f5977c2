"""How money comes in: the lines of invoices, their payment, the course of subscriptions, and what time brings."""
