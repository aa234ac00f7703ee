"""Files for desktops and file(1), which `licodec integrate` prints and installs."""
