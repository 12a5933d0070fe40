//! Ways out of service other than that a domain is deleted and nothing is queued, and what is done to a domain that stays.
//!
//! A client sends numbered messages the whole time, one message or more wait in the queue before the change, and in the
//! end each message that was answered 250 is in a Maildir, or in the queue for who is gone. Nothing bounces, nothing is
//! handed to smtp(8), no valid recipient is refused for good while an MX names us, and where service goes on, the MX
//! never leaves.

mod stories;
mod story;

use std::time::Instant;

use serde_json::{Value, json};

use crate::lanes::{Lanes, all};
use crate::world::{Parts, World};
use stories::*;
use story::Story;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    TenancyRuleChanged,
    PostmasterDeleted,
    NoLongerManaged,
    ZoneChanged,
    MxListChanged,
    CatchAllRemoved,
    MailboxDeleted,
    MailboxBecomesAlias,
    AddressOfAnother,
    DomainDeleted,
    ReappliedInTheDrain,
    OtherNamespace,
    OtherClass,
    OtherCell,
    BadNeighbours,
}

use Way::*;

const ALL: [Way; 15] = [
    TenancyRuleChanged,
    PostmasterDeleted,
    NoLongerManaged,
    ZoneChanged,
    MxListChanged,
    CatchAllRemoved,
    MailboxDeleted,
    MailboxBecomesAlias,
    AddressOfAnother,
    DomainDeleted,
    ReappliedInTheDrain,
    OtherNamespace,
    OtherClass,
    OtherCell,
    BadNeighbours,
];

const SOME: [Way; 3] = [AddressOfAnother, DomainDeleted, OtherClass];

async fn tell<'a>(way: Way, world: World<'a>) -> Story<'a> {
    match way {
        TenancyRuleChanged => tenancy_rule_changed(world).await,
        PostmasterDeleted => postmaster_deleted(world).await,
        NoLongerManaged => no_longer_managed(world).await,
        ZoneChanged => zone_changed(world).await,
        MxListChanged => mx_list_changed(world).await,
        CatchAllRemoved => catch_all_removed(world).await,
        MailboxDeleted => mailbox_deleted(world).await,
        MailboxBecomesAlias => mailbox_becomes_alias(world).await,
        AddressOfAnother => address_of_another(world).await,
        DomainDeleted => domain_deleted(world).await,
        ReappliedInTheDrain => reapplied_in_the_drain(world).await,
        OtherNamespace => other_namespace(world).await,
        OtherClass => other_class(world).await,
        OtherCell => other_cell(world).await,
        BadNeighbours => bad_neighbours(world).await,
    }
}

async fn run(parts: &mut Parts, way: Way) -> Result<String, String> {
    let began = Instant::now();
    let world = World::new(parts).await;
    let rights = ["adopt", "unmanaged"];
    world.configure(
        "tenancy",
        json!({ "rules": [{ "namespaces": ["*"], "domains": ["*"], "rights": rights }] }),
    );
    if way == OtherCell {
        let mut config: Value = serde_json::from_str(&world.config()).expect("JSON");
        let other = json!({ "hostname": "other.us.test", "pod": "vmail-postfix-other-0", "agentPort": 1 });
        config["cells"]["other"] = other;
        world.configure("cells", config["cells"].clone());
    }
    world.start_operator().await;
    let mut story = tell(way, world).await;
    story.traffic.stop();
    story.end(way, began).await
}

/// `VMAIL_FAULTS=all` tells every way, `VMAIL_WAY=<name>` one; otherwise a few.
#[tokio::test(flavor = "multi_thread")]
async fn accepted_mail_is_delivered_whatever_way_a_domain_goes() {
    let only = std::env::var("VMAIL_WAY").ok();
    let mut ways = if all() || only.is_some() { ALL.to_vec() } else { SOME.to_vec() };
    ways.retain(|way| only.as_ref().is_none_or(|only| format!("{way:?}").contains(only)));
    let mut lanes = Lanes::start().await;
    let told = lanes.run(&ways, async |parts: &mut Parts, way: &Way| run(parts, *way).await);
    let (mut table, mut wrong) = (String::new(), Vec::new());
    for (way, told) in ways.iter().zip(told) {
        match told {
            Some(Ok(row)) => table += &(row + "\n"),
            Some(Err(report)) => {
                table += &format!("{}\n", report.lines().next().unwrap_or_default());
                wrong.push(report);
            }
            None => wrong.push(format!("{way:?}: see above")),
        }
    }
    println!(
        "\n### Ways out of service (I1, I2, I4)\n\n| way | sent | taken | delivered | queued | bounced | questions | violations | seconds |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n{table}"
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
