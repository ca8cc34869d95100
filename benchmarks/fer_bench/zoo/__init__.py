"""fer-bench zoo: the field's backbones side by side."""
