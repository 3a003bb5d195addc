"""The only code that decodes bytes."""
