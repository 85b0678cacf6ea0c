"""The mathematics that provider and devices share: operators, curvature and planning. No I/O, no Flower."""
