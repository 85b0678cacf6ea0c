"""What both kinds of machine of a deployment need: private files, the guard against foreign bundles, supervision."""
