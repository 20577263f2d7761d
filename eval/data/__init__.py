"""Files of benchmarks: images, annotations, records, and the cache of embeddings."""
