"""The tiny face detector: the network, the pictures it reads and the boxes it draws."""
