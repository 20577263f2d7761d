"""Numbers from embeddings, streaming and exact over ranks."""
