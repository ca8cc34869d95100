"""What goes on the device: bundles, data, images and one file per engine. Never needs torch."""
