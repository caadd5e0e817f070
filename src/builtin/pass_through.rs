//! The callbacks that a wrapper passes on unchanged, written once for all wrappers.

/// Defines the callbacks of a wrapper that are those of its field `handler`, with the field `inner` of its state.
macro_rules! pass_through {
    () => {
        fn on_drain(&mut self, cx: &mut $crate::handler::context::Context<'_>, state: &mut Self::State) {
            self.handler.on_drain(cx, &mut state.inner);
        }

        fn on_timer(&mut self, cx: &mut $crate::handler::context::Context<'_>, state: &mut Self::State, key: u64) {
            self.handler.on_timer(cx, &mut state.inner, key);
        }

        fn on_tick(&mut self, net: &mut $crate::handler::net::Net<'_>, key: u64) {
            self.handler.on_tick(net, key);
        }

        fn on_note(&mut self, net: &mut $crate::handler::net::Net<'_>, note: Box<dyn std::any::Any + Send>) {
            self.handler.on_note(net, note);
        }

        fn on_note_to(
            &mut self,
            cx: &mut $crate::handler::context::Context<'_>,
            state: &mut Self::State,
            note: Box<dyn std::any::Any + Send>,
        ) {
            self.handler.on_note_to(cx, &mut state.inner, note);
        }

        fn on_connect_failed(&mut self, net: &mut $crate::handler::net::Net<'_>, tag: u64, error: &std::io::Error) {
            self.handler.on_connect_failed(net, tag, error);
        }

        fn on_connect_retry(
            &mut self,
            net: &mut $crate::handler::net::Net<'_>,
            tag: u64,
            error: &std::io::Error,
            wait: std::time::Duration,
        ) {
            self.handler.on_connect_retry(net, tag, error, wait);
        }

        fn on_shutdown(&mut self, cx: &mut $crate::handler::context::Context<'_>, state: &mut Self::State) {
            self.handler.on_shutdown(cx, &mut state.inner);
        }

        fn on_close(
            &mut self,
            net: &mut $crate::handler::net::Net<'_>,
            state: Self::State,
            closed: &$crate::closed::Closed,
        ) {
            self.handler.on_close(net, state.inner, closed);
        }
    };
}
