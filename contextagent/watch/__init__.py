"""The one long-lived process: it publishes, watches the lifetime, minds the pilot, and acts on what is asked of it."""
