"""The operator's page: one screen that says what the box decides, and whether it can be trusted to."""
