"""One file that provisions boxes without internet: code, wheels and a model directory."""
