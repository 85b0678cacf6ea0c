"""Planning a deletion: saliency, mask, guard and steering, searched on copies of the model."""
