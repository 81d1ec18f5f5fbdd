"""Parts for testing adapters, and projects that use embedmigrate; nothing for production."""
