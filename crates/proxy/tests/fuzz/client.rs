//! Clients of HTTP/1.1.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::bed::Bed;
use crate::ledger::Shared;
use crate::request::Request;
use crate::scene::Scene;
use crate::strict::{Body, Fault, Framing, Head, Reader};
use crate::way::{Receiver, Sender, Way, connect};
use beeway_model::testing::Dice;

/// What all clients of a try know.
#[derive(Clone)]
pub struct World {
    pub bed: Rc<Bed>,
    pub scene: Rc<Scene>,
    pub ledger: Shared,
}

/// What the reading half of a client is told of a request before it is sent.
enum Asked {
    Request {
        id: u64,
        method: &'static str,
        /// Nothing comes after it.
        last: bool,
        /// The answer may be a tunnel.
        upgrade: bool,
    },
    /// What is none.
    Wrong,
}

/// A client that sends some requests and reads their answers.
pub async fn talk(world: World, mut dice: Dice) {
    let way = dice.of(&[Way::Judged, Way::Judged, Way::Sticky, Way::Socket]);
    let Ok((sender, receiver)) = connect(&world.bed, way).await else {
        return world.ledger.fault("the proxy does not take connections");
    };
    world.ledger.tell(|| format!("{:?} is a client by {way:?}", sender.cookie()));
    if let (Some(cookie), true) = (sender.cookie(), dice.one_in(3)) {
        let (bed, stalls) = (world.bed.clone(), dice.one_in(2));
        let time = Duration::from_millis(dice.below(30) as u64);
        bed.stall(cookie, if stalls { 1 << 20 } else { 0 });
        tokio::task::spawn_local(async move {
            tokio::time::sleep(time).await;
            bed.stall(cookie, 0);
            if !stalls {
                bed.divert(cookie);
            }
        });
    }
    let patience = dice.one_in(10).then(|| Duration::from_millis(dice.below(40) as u64));
    let (tell, asked) = mpsc::unbounded_channel();
    let (report, answered) = watch::channel(0);
    let asker = Asker { world: &world, dice, way, tell, answered, asked: 0, sender };
    let both = async {
        // Who asks keeps the connection until all is answered.
        let (_sender, ()) =
            tokio::join!(asker.run(), listen(&world, way, Reader::new(receiver), asked, report));
    };
    // Some lose patience.
    match patience {
        Some(patience) => drop(tokio::time::timeout(patience, both).await),
        None => both.await,
    }
}

struct Asker<'a> {
    world: &'a World,
    dice: Dice,
    way: Way,
    tell: mpsc::UnboundedSender<Asked>,
    /// How many answers have come; ended: there will be no more.
    answered: watch::Receiver<usize>,
    asked: usize,
    sender: Sender,
}

impl Asker<'_> {
    async fn run(mut self) -> Sender {
        let World { scene, ledger, .. } = self.world;
        let plain = !self.dice.one_in(if self.way == Way::Judged { 3 } else { 2 });
        let one_by_one = plain || self.dice.one_in(2);
        for _ in 0..self.dice.between(1, if plain { 60 } else { 8 }) {
            if self.dice.one_in(12) && self.way != Way::Judged {
                let bytes = Request::wrong(&mut self.dice, scene, ledger);
                ledger.count("wrong requests");
                ledger.tell(|| format!("wrong: {:?}", String::from_utf8_lossy(&bytes)));
                if self.wait().await && self.tell.send(Asked::Wrong).is_ok() {
                    self.sender.send(&mut self.dice, &bytes, false).await;
                }
                break;
            }
            let mut request = Request::new(&mut self.dice, plain);
            let (bytes, last, upgrade) = request.render(&mut self.dice, scene, ledger);
            let (id, method) = (request.id, request.method);
            if self.tell.send(Asked::Request { id, method, last, upgrade }).is_err() {
                break;
            }
            self.asked += 1;
            ledger.tell(|| {
                format!(
                    "{id} by {:?} {:.300?}",
                    self.sender.cookie(),
                    String::from_utf8_lossy(&bytes)
                )
            });
            ledger.count("requests");
            if !self.sender.send(&mut self.dice, &bytes, true).await {
                break;
            }
            if (one_by_one || last || upgrade) && !self.wait().await {
                break;
            }
            if last && self.way != Way::Judged {
                break;
            }
        }
        self.sender
    }

    /// Until all that was asked is answered. False: it will not be.
    async fn wait(&mut self) -> bool {
        let asked = self.asked;
        self.answered.wait_for(|answered| *answered >= asked).await.is_ok()
    }
}

/// Reads answers for as long as there are requests.
async fn listen(
    world: &World,
    way: Way,
    mut reader: Reader<Receiver>,
    mut asked: mpsc::UnboundedReceiver<Asked>,
    report: watch::Sender<usize>,
) {
    let mut nth = 0;
    while let Some(asked_for) = asked.recv().await {
        let Asked::Request { id, method, last, upgrade } = asked_for else {
            // What there is to say to that is not known.
            let rest = async { while reader.fill().await.is_ok() {} };
            return drop(tokio::time::timeout(Duration::from_millis(20), rest).await);
        };
        let next = match answer(world, &mut reader, (id, method, upgrade)).await {
            Ok(next) => next,
            Err(Fault::Ended(kind)) => {
                world.ledger.tell(|| format!("{id} has no answer: {kind}"));
                return world.ledger.count("requests without an answer");
            }
            Err(Fault::Wrong(what)) => {
                return world.ledger.fault(format!("the client of {id} {method} got {what}"));
            }
        };
        if next == Next::Nothing {
            return;
        }
        if let Some(told) = reader.io().end(nth).await
            && told != Ok(reader.taken)
        {
            let at = reader.taken;
            world.ledger.fault(format!("the answer to {id} ends at {at}, told was {told:?}"));
        }
        nth += 1;
        // What was sent before a server has closed is thrown away; what the kernel judges after it
        // is for another one.
        let closed = last || next == Next::Close;
        if closed && (!asked.is_empty() || way != Way::Judged || reader.io().turned) {
            return;
        }
        report.send_replace(nth);
    }
}

/// What comes after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Another,
    /// This server says nothing more.
    Close,
    /// The connection is over.
    Nothing,
}

/// Reads one answer.
async fn answer(
    world: &World,
    reader: &mut Reader<Receiver>,
    (id, method, upgrade): (u64, &str, bool),
) -> Result<Next, Fault> {
    let head = loop {
        let head = reader.answer().await?;
        match head.status() {
            100 => {}
            101 if upgrade => {
                world.ledger.count("tunnels");
                return Ok(Next::Nothing);
            }
            status if status < 200 => return Err(Fault::Wrong(format!("{:?}", head.first))),
            _ => break head,
        }
    };
    let framing = head.answer_framing(method)?;
    if framing == Framing::Close {
        return Err(Fault::Wrong(format!("an answer without end: {head:?}")));
    }
    let mut body = Body::default();
    reader.body(framing, &mut body).await?;
    judge(world, id, method == "HEAD", &head, &body);
    let closes = head.one("connection").is_some_and(|connection| connection == "close");
    Ok(if closes { Next::Close } else { Next::Another })
}

/// A whole answer has come.
fn judge(world: &World, id: u64, bodiless: bool, head: &Head, body: &Body) {
    let hops = ["keep-alive", "x-hop", "x-early"];
    if hops.iter().any(|name| head.has(name)) || head.all("x-answer-to").count() > 1 {
        world.ledger.fault(format!("{id} was answered with {head:?}"));
    }
    match head.one("x-answer-to") {
        Some(tag) => world.ledger.answered(id, &tag, head.status(), bodiless, body),
        None => answered_by_proxy(world, id, head.status(), &body.data),
    }
}

/// Whom no endpoint answers.
pub fn answered_by_proxy(world: &World, id: u64, status: u16, body: &[u8]) {
    world.ledger.tell(|| format!("{id} is answered by the proxy with {status}"));
    world.ledger.count("answers of the proxy");
    if world.scene.honest && (502..=504).contains(&status) {
        let text = String::from_utf8_lossy(body);
        world.ledger.fault(format!("{id} was answered with {status} for no reason: {text}"));
    }
}
