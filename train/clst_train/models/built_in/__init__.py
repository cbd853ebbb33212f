"""Networks that come with this project."""
