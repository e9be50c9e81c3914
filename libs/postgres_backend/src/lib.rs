//! postgres_backend
