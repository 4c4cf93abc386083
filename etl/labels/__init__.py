"""What is known of images and patients beside the pixels: masks onto volumes, tables onto patients."""
