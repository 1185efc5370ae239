"""One module per corpus: `python -m recipes.<corpus> CORPUS_DIR OUT_DIR` writes train, valid and test manifests."""
