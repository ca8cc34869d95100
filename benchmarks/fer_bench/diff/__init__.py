"""Where two bundles of the same net part ways: their tensors, matched and compared in order."""
