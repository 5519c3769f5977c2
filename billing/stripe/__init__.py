"""The one package that knows Stripe's SDK.

Importing the SDK takes a fifth of a second and some memory, so each module imports it where it is first used: web and
workers that never meet Stripe do without.
"""
