"""Reading of user-written files: located YAML and safe arithmetic."""
