"""What goes in and out over HTTP: requests, responses, problems and their OpenAPI description."""
