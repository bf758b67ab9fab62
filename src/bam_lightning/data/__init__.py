"""From files or datasets to checked examples, tokens, the mixed stream and packed batches; the demo tasks."""
