"""Which sample comes when: shuffle order, mixture, local and remote shards, resume, bad samples."""
