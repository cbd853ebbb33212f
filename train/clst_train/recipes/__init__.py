"""Settings that go together, as TOML, and how they are read."""
