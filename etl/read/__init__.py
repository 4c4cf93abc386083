"""What a user of the store sees: patients, volumes, source slices."""
