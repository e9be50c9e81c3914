//! pq_proto
