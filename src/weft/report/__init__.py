"""Drawing: SVG charts, the page around them, and what a terminal shows; knows nothing of training or models."""
