"""Names of people and roles: which text is allowed, and which two names a reader takes for one."""
