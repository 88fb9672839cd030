//! Scripts, called by their hash.

use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind, ToRedisArgs, aio::ConnectionLike};

/// A script that Redis remembers after its first call.
pub(crate) struct Script {
    code: &'static str,
    hash: String,
}

impl Script {
    pub(crate) fn new(code: &'static str) -> Self {
        Self { code, hash: redis::Script::new(code).get_hash().to_owned() }
    }

    pub(crate) fn prepare_invoke(&self) -> Invocation<'_> {
        Invocation { script: self, keys: Vec::new(), arguments: Vec::new() }
    }

    pub(crate) fn key(&self, key: impl ToRedisArgs) -> Invocation<'_> {
        self.prepare_invoke().key(key)
    }
}

/// A call of a script.
pub(crate) struct Invocation<'a> {
    script: &'a Script,
    keys: Vec<Vec<u8>>,
    arguments: Vec<Vec<u8>>,
}

impl Invocation<'_> {
    pub(crate) fn key(mut self, key: impl ToRedisArgs) -> Self {
        key.write_redis_args(&mut self.keys);
        self
    }

    pub(crate) fn arg(mut self, argument: impl ToRedisArgs) -> Self {
        self.push(argument);
        self
    }

    pub(crate) fn push(&mut self, argument: impl ToRedisArgs) {
        argument.write_redis_args(&mut self.arguments);
    }

    /// A Redis that does not know the script gets it with the same call. (`SCRIPT LOAD` would go to all nodes of a cluster, and
    /// fail with any of them.)
    pub(crate) async fn invoke_async<T: FromRedisValue>(&self, connection: &mut impl ConnectionLike) -> RedisResult<T> {
        match self.command("EVALSHA", &self.script.hash).query_async(connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.command("EVAL", self.script.code).query_async(connection).await
            }
            result => result,
        }
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(script).arg(self.keys.len()).arg(&self.keys).arg(&self.arguments);
        command
    }
}
