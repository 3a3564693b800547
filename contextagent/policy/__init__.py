"""Who may say what: the settings' schema, their strict reading, and what comes out when all voices are heard."""
