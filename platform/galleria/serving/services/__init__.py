"""What the gateway does for a request, apart from HTTP."""
