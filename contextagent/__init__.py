"""The in-guest half of a contract between a site, an image endorser and a user."""

__version__ = "0.1.0"
