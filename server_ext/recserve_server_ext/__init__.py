"""What runs inside or beside Triton: user vectors, index, retrieval, stores, the launcher of tritonserver."""
