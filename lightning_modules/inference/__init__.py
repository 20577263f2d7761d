"""A trained encoder as evaluation and explanation use it."""
