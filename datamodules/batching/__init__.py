"""A sample into a batch: tokens, drawn texts and regions, transformed images."""
