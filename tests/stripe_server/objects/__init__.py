"""What the account holds, a module for each noun: its shape, and what a request does to it."""
