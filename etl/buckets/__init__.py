"""Object stores: S3, Google Cloud Storage, Azure. Only this package knows the library that reaches them."""
