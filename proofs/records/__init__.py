"""What every record has in common: one byte encoding, a digest, signatures; and the encoding of masks and guards."""
