package main
import ("testing";"os/exec";"fmt";"time";"context";"os";"strconv";"strings"
"github.com/nats-io/nats.go";"github.com/nats-io/nats.go/jetstream")
func cpu(pid int) float64 { b,_:=os.ReadFile(fmt.Sprintf("/proc/%d/stat",pid)); s:=string(b); f:=strings.Fields(s[strings.LastIndexByte(s,')')+1:]); a,_:=strconv.ParseFloat(f[11],64); c,_:=strconv.ParseFloat(f[12],64); return (a+c)/100 }
func TestX(t *testing.T){
 body:=make([]byte,900); for i:=range body{body[i]='a'+byte(i%26)}
 const n=30000
 for _,v:=range []struct{name string; mod func(*jetstream.StreamConfig); ttl, cas bool; two bool}{
  {"plain-1write",func(c *jetstream.StreamConfig){c.MaxMsgsPerSubject=-1},false,false,false},
  {"plain-2writes",func(c *jetstream.StreamConfig){c.MaxMsgsPerSubject=-1},false,false,true},
  {"mps1-1write",func(c *jetstream.StreamConfig){},false,false,false},
  {"mps1-2writes",func(c *jetstream.StreamConfig){},false,false,true},
  {"mps1-2writes-cas",func(c *jetstream.StreamConfig){},false,true,true},
  {"mps1-2writes-cas-ttl",func(c *jetstream.StreamConfig){},true,true,true},
  {"mps1-2writes-cas-ttl-discold",func(c *jetstream.StreamConfig){c.Discard=jetstream.DiscardOld},true,true,true},
  {"mps1-2writes-cas-ttl-maxbytes0",func(c *jetstream.StreamConfig){c.MaxBytes=-1},true,true,true},
  {"mps2-2writes-cas-ttl",func(c *jetstream.StreamConfig){c.MaxMsgsPerSubject=2},true,true,true},
 }{
  dir,_:=os.MkdirTemp("","lb"); 
  cmd:=exec.Command("/tmp/bench/nats-server","-a","127.0.0.1","-p","14222","-js","-sd",dir); cmd.Start(); 
  var nc *nats.Conn; var err error
  for i:=0;i<100;i++{ nc,err=nats.Connect("nats://127.0.0.1:14222"); if err==nil{break}; time.Sleep(20*time.Millisecond)}
  js,_:=jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(256))
  c:=jetstream.StreamConfig{Name:"KV_L",Subjects:[]string{"$KV.L.>"},MaxMsgsPerSubject:1,Discard:jetstream.DiscardNew,AllowMsgTTL:true,AllowRollup:true,DenyDelete:true,MaxBytes:1<<30,Duplicates:2*time.Minute}
  v.mod(&c)
  if _,err:=js.CreateStream(context.Background(),c);err!=nil{t.Fatal(err)}
  c0:=cpu(cmd.Process.Pid); t0:=time.Now()
  window:=64
  futs:=make([]jetstream.PubAckFuture,0,window)
  for i:=0;i<n;i+=window{
    seqs:=make([]uint64,window)
    for pass:=0;pass<2;pass++{
     if pass==1 && !v.two{break}
     futs=futs[:0]
     for k:=0;k<window;k++{
      m:=nats.NewMsg(fmt.Sprintf("$KV.L.%022d.abcdefghijklmnopqrstuv",i+k)); m.Data=body
      var o []jetstream.PublishOpt
      if v.cas{o=append(o,jetstream.WithExpectLastSequencePerSubject(seqs[k]))}
      if v.ttl&&pass==1{o=append(o,jetstream.WithMsgTTL(72*time.Hour))}
      f,err:=js.PublishMsgAsync(m,o...); if err!=nil{t.Fatal(err)}; futs=append(futs,f)
     }
     for k,f:=range futs{ select{case a:=<-f.Ok(): seqs[k]=a.Sequence; case e:=<-f.Err(): t.Fatal(e)} }
    }
  }
  fmt.Printf("%-34s server cpu/1k %.4f  wall %.2fs\n",v.name,(cpu(cmd.Process.Pid)-c0)/n*1000,time.Since(t0).Seconds())
  nc.Close(); cmd.Process.Kill(); cmd.Wait(); os.RemoveAll(dir)
 }
}
