"""The files of data sets as they are released: one reader a release, used to prepare shards and to evaluate."""
