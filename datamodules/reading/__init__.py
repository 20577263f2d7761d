"""The order of samples: shuffle order, mixture, local and remote shards, resume, bad samples."""
