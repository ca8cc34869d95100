"""How accuracy falls when faces are worse than the data set's: blur, noise, light, JPEG, loose cropping."""
