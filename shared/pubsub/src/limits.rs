//! Limits of Pub/Sub, from <https://cloud.google.com/pubsub/quotas#resource_limits>.

/// Maximum messages in a publish request.
pub const MAX_REQUEST_MESSAGES: usize = 1000;
/// Maximum encoded bytes of a publish request.
pub const MAX_REQUEST_BYTES: usize = 10_000_000;
/// Maximum bytes of a message, data and attributes together.
pub const MAX_MESSAGE_BYTES: usize = 10_000_000 - 1024;
/// Maximum attributes of a message.
pub const MAX_ATTRIBUTES: usize = 100;
/// Maximum bytes of an attribute's key.
pub const MAX_ATTRIBUTE_KEY_BYTES: usize = 256;
/// Maximum bytes of an attribute's value.
pub const MAX_ATTRIBUTE_VALUE_BYTES: usize = 1024;
/// Maximum bytes of an ordering key.
pub const MAX_ORDERING_KEY_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_leaves_room_for_the_rest_of_its_request() {
        assert!((9_900_000..10_000_000).contains(&MAX_MESSAGE_BYTES), "{MAX_MESSAGE_BYTES}");
    }
}
