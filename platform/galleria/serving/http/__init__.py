"""The HTTP interface: routes, authentication, admission, metrics and the search page."""
