//! How a staged revision goes live, and how the one before comes back.

use std::time::Duration;

use tokio::time::Instant;

use super::super::closing::Closing;
use super::super::install::{self, Listen, Refusal};
use super::super::mounted::Revision;
use super::super::proof::{self, Relay};
use super::super::{AgentError, edit, leaving};
use super::{Keeper, PATIENCE, READY};
use crate::postfix::main_cf::PROBE_LISTENER;

/// What sessions get to end by themselves that began before a domain was closed.
const LAST_SESSIONS: Duration = Duration::from_secs(10);

impl Keeper {
    /// Takes no more mail for what is delivered no more, waits for the rest of it, and then puts a staged revision into
    /// place.
    #[tracing::instrument(target = "timing", level = "debug", skip_all, name = "put")]
    pub(super) async fn close_and_switch(
        &mut self,
        closing: Option<Closing>,
        before: Option<&Revision>,
        next: &Revision,
        staged: &install::Staged,
    ) -> Result<(), Refusal> {
        // Before the mailboxes go.
        self.put_leaving().await?;
        if let Some(closing) = closing {
            let access = closing.revision.file(Closing::TABLE);
            install::put_table(&self.layout, Closing::TABLE, access).await?;
            if let Some(before) = before {
                // Each goes by the tables that were there when its client came.
                let sessions = self.postfix.sessions();
                self.reload(before, Listen::Public).await?;
                self.postfix.outlast(sessions, LAST_SESSIONS).await;
            }
            closing.wait(&self.layout.config).await;
        }
        self.switch(before, next, staged).await
    }

    /// Has virtual(8) deliver what is queued for mailboxes that are gone.
    pub(super) async fn put_leaving(&mut self) -> Result<(), Refusal> {
        let text = leaving::table(self.custodian.leaving());
        if self.leaving.as_ref() != Some(&text) {
            install::put_table(&self.layout, leaving::TABLE, &text).await?;
            self.leaving = Some(text);
        }
        Ok(())
    }

    /// Puts a staged revision into place.
    ///
    /// A new `main.cf` or `master.cf` is read by every process that starts from then on, so the public port
    /// is closed before it is there, and opened when the answer to a stranger's question is no. Tables
    /// alone cannot open a relay: they name each domain.
    #[tracing::instrument(target = "timing", level = "debug", skip_all)]
    pub(super) async fn switch(
        &mut self,
        before: Option<&Revision>,
        next: &Revision,
        staged: &install::Staged,
    ) -> Result<(), Refusal> {
        let start = |error: &dyn std::fmt::Display| Refusal { passing: true, ..Refusal::new("Start", error) };
        if !staged.config_changed {
            if staged.add_routes(&self.layout).map_err(|error| start(&error))? {
                self.reload(next, Listen::Public).await?;
            }
            staged.add().and_then(|()| staged.remove()).map_err(|error| start(&error))?;
            if staged.domains_changed {
                self.reload(next, Listen::Public).await?;
            }
            return self.stranger(next, PROBE_LISTENER).await;
        }
        if let Some(before) = before {
            self.reload(before, Listen::Private).await?;
        }
        staged.add_routes(&self.layout).map_err(|error| start(&error))?;
        staged.add().and_then(|()| staged.remove()).map_err(|error| start(&error))?;
        if self.postfix.is_running() {
            self.reload(next, Listen::Private).await?;
        } else {
            let mark = self.configure(next, Listen::Private)?;
            self.postfix.start().await.map_err(|error| start(&error))?;
            self.wait_for(&mark).await?;
        }
        self.stranger(next, PROBE_LISTENER).await?;
        self.reload(next, Listen::Public).await?;
        proof::answers(self.public).await.map_err(|error| start(&error))?;
        self.stranger(next, self.public).await
    }

    /// Asks as a stranger until there is an answer that counts.
    #[tracing::instrument(target = "timing", level = "debug", skip_all, name = "relay")]
    pub(super) async fn stranger(&self, next: &Revision, address: &str) -> Result<(), Refusal> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = proof::ask_relay(address, self.settling()).await;
            let refusal = match answer {
                Relay::Refused => return Ok(()),
                Relay::Open(said) => return Err(Refusal::new("Relay", said)),
                Relay::Broken(said) => Refusal::new("Check", said),
                Relay::NotNow(said) => Refusal { passing: true, ..Refusal::new("Start", said) },
            };
            if Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
            // A full queue or a crowd at the door must not keep a configuration out that was good before:
            // the queue would never be delivered.
            let known = self.proved_config.as_ref().is_some_and(|(main, master)| {
                main == next.file("main.cf") && master == next.file("master.cf")
            });
            if refusal.passing && (known || address == self.public) {
                tracing::warn!(
                    "nobody can tell now whether this relays, it did not before: {}",
                    refusal.message
                );
                return Ok(());
            }
            return Err(refusal);
        }
    }

    /// Brings back what was live; without anything, Postfix stops and port 25 is closed.
    pub(super) async fn roll_back(&mut self, before: Option<&Revision>) -> Result<(), AgentError> {
        let failed = |message: String| AgentError::RollBack(message);
        let Some(before) = before else {
            self.postfix.stop(super::super::STOP).await;
            self.leaving = None;
            return install::clear(&self.layout).map_err(|error| failed(error.to_string()));
        };
        let staged = install::stage(&self.layout, None, before).await.map_err(|r| failed(r.message))?;
        let added = staged.add_routes(&self.layout).and_then(|_| staged.add());
        added.map_err(|error| failed(error.to_string()))?;
        if self.postfix.is_running() {
            return self.reload(before, Listen::Public).await.map_err(|refusal| failed(refusal.message));
        }
        let mark = self.configure(before, Listen::Public).map_err(|refusal| failed(refusal.message))?;
        self.postfix.start().await.map_err(|error| failed(error.to_string()))?;
        self.wait_for(&mark).await.map_err(|refusal| failed(refusal.message))
    }

    /// Configures and reloads Postfix, and waits until it serves just this.
    #[tracing::instrument(target = "timing", level = "debug", skip_all)]
    pub(super) async fn reload(&mut self, revision: &Revision, listen: Listen) -> Result<(), Refusal> {
        let mark = self.configure(revision, listen)?;
        self.postfix.reload().map_err(|error| Refusal::new("Start", error))?;
        self.metrics.reloaded();
        self.wait_for(&mark).await
    }

    pub(super) fn configure(&mut self, revision: &Revision, listen: Listen) -> Result<String, Refusal> {
        self.generation += 1;
        let mark = format!("vmail-probe-{}", self.generation);
        let written = install::configure(&self.layout, revision, self.own_parameters(), listen, &mark);
        written.map_err(|error| Refusal { passing: true, ..Refusal::new("Start", error) })?;
        Ok(mark)
    }

    /// Parameters that are not the revision's to say.
    pub(super) fn own_parameters(&self) -> Vec<(&'static str, String)> {
        let mut own = self.tls.parameters();
        if self.settling() {
            own.extend(edit::SETTLE.map(|(name, value)| (name, value.to_owned())));
        }
        own
    }

    pub(super) async fn wait_for(&self, mark: &str) -> Result<(), Refusal> {
        tokio::select! {
            how = self.postfix.ended() => {
                Err(Refusal::new("Start", format!("the Postfix master process ended ({how}); its log says why")))
            }
            served = proof::wait_for_mark(PROBE_LISTENER, mark, READY) => {
                served.map_err(|message| Refusal::new("Start", message))
            }
        }
    }
}
