//! Lua scripts, called by their hash.

use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind, ToRedisArgs, aio::ConnectionLike};

/// All scripts; the header of each Lua file documents its keys, arguments and return value.
pub(crate) struct Scripts {
    pub(crate) active_events: Script,
    pub(crate) begin_recovery: Script,
    pub(crate) check_issuing: Script,
    pub(crate) delete_confirmed: Script,
    pub(crate) erase_user: Script,
    pub(crate) event_list_state: Script,
    pub(crate) issue: Script,
    pub(crate) add_to_event_list: Script,
    pub(crate) load: Script,
    pub(crate) lookup: Script,
    pub(crate) mark_active: Script,
    pub(crate) mark_verified: Script,
    pub(crate) observe: Script,
    pub(crate) observe_issuing: Script,
    pub(crate) outbox_state: Script,
    pub(crate) prepare: Script,
    pub(crate) remove: Script,
    pub(crate) request_restore: Script,
    pub(crate) add_to_outbox: Script,
    pub(crate) reset_gate: Script,
    pub(crate) retire: Script,
    pub(crate) set_gate: Script,
    pub(crate) set_pseudonym_key: Script,
    pub(crate) settle: Script,
    pub(crate) verify_event_list: Script,
    pub(crate) acquire_lease: Script,
}

impl Scripts {
    pub(crate) fn new() -> Self {
        let (check_issuing, observe) = (include_str!("lua/check_issuing.lua"), include_str!("lua/observe.lua"));
        // Both in one call, because the state of each idle open event is read every two seconds. With no-writes, Redis
        // would not check whether it accepts writes.
        let observe_issuing = format!("{check_issuing}{}", observe.trim_start_matches("#!lua flags=no-writes"));
        Self {
            active_events: Script::new(include_str!("lua/active_events.lua")),
            begin_recovery: Script::new(include_str!("lua/begin_recovery.lua")),
            check_issuing: Script::new(check_issuing),
            delete_confirmed: Script::new(include_str!("lua/delete_confirmed.lua")),
            erase_user: Script::new(include_str!("lua/erase_user.lua")),
            event_list_state: Script::new(include_str!("lua/event_list_state.lua")),
            issue: Script::new(include_str!("lua/issue.lua")),
            add_to_event_list: Script::new(include_str!("lua/add_to_event_list.lua")),
            load: Script::new(include_str!("lua/load.lua")),
            lookup: Script::new(include_str!("lua/lookup.lua")),
            mark_active: Script::new(include_str!("lua/mark_active.lua")),
            mark_verified: Script::new(include_str!("lua/mark_verified.lua")),
            observe: Script::new(observe),
            observe_issuing: Script::new(&observe_issuing),
            outbox_state: Script::new(include_str!("lua/outbox_state.lua")),
            prepare: Script::new(include_str!("lua/prepare.lua")),
            remove: Script::new(include_str!("lua/remove.lua")),
            request_restore: Script::new(include_str!("lua/request_restore.lua")),
            add_to_outbox: Script::new(include_str!("lua/add_to_outbox.lua")),
            reset_gate: Script::new(include_str!("lua/reset_gate.lua")),
            retire: Script::new(include_str!("lua/retire.lua")),
            set_gate: Script::new(include_str!("lua/set_gate.lua")),
            set_pseudonym_key: Script::new(include_str!("lua/set_pseudonym_key.lua")),
            settle: Script::new(include_str!("lua/settle.lua")),
            verify_event_list: Script::new(include_str!("lua/verify_event_list.lua")),
            acquire_lease: Script::new(include_str!("lua/acquire_lease.lua")),
        }
    }
}

/// A script that Redis caches after its first call.
pub(crate) struct Script {
    code: String,
    hash: String,
}

impl Script {
    fn new(code: &str) -> Self {
        // Negative control of the tests: a script that writes although a later write will fail.
        let code = if couponry_failpoint::is_on("redis.no-permission-checks") {
            code.replace("redis.acl_check_cmd", "tostring")
        } else {
            code.to_owned()
        };
        Self { hash: redis::Script::new(&code).get_hash().to_owned(), code }
    }

    /// A call without keys and arguments, for [`query_masters`](crate::redis_store::RedisStore::query_masters).
    pub(crate) fn without_keys(&self) -> Cmd {
        Invocation { script: self, keys: Vec::new(), arguments: Vec::new() }.command("EVAL", &self.code)
    }

    /// Begins a call with its first key.
    pub(crate) fn key(&self, key: impl ToRedisArgs) -> Invocation<'_> {
        Invocation { script: self, keys: Vec::new(), arguments: Vec::new() }.key(key)
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

    pub(crate) fn args(self, arguments: impl IntoIterator<Item: ToRedisArgs>) -> Self {
        arguments.into_iter().fold(self, Self::arg)
    }

    pub(crate) fn push(&mut self, argument: impl ToRedisArgs) {
        argument.write_redis_args(&mut self.arguments);
    }

    /// If Redis does not have the script cached, it is sent with the call. (`SCRIPT LOAD` would go to all nodes of a
    /// cluster, and fail if one of them does.)
    pub(crate) async fn invoke_async<T: FromRedisValue>(&self, connection: &mut impl ConnectionLike) -> RedisResult<T> {
        match self.command("EVALSHA", &self.script.hash).query_async(connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.command("EVAL", &self.script.code).query_async(connection).await
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
