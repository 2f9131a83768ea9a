"""Where records come from: files, published data sets and their layouts, the embedded text."""
