"""What runs on the device: personalisation, curvature, Group-OBS, the device's own state, and the ClientApp."""
